"""One cell from pixels to products: tiles go up to the device, maps come down."""
