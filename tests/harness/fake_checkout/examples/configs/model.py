"""Settings that a network implies."""

model_defaults = {
    name: {"model_kwargs": {"pretrained": True}, "target_resolution": (224, 224)}
    for name in ("resnet18", "resnet50")
}
