"""Any screen: tables and folders of images, read into sites, and a data set made of them."""
