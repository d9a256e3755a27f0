# The package with boards and reports, on the CPU or on whatever device torch's wheel finds:
#   docker build -t abra_wilds . && docker run --rm -v "$PWD:/work" abra_wilds doctor
FROM python:3.12-slim
COPY . /source
RUN pip install --no-cache-dir --constraint /source/constraints.txt '/source[board,embed]' && rm -rf /source
WORKDIR /work
ENTRYPOINT ["abra-wilds"]
