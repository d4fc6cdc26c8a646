"""capecam: city-scale maps of rooftop solar, and of why the network says so."""

__version__ = "0.2.0"
