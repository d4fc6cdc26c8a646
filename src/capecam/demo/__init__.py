"""The sample city: drawn images, the truth, and the sample network."""
