"""RoAd."""
