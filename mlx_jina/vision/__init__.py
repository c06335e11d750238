"""Pictures before the model: decoded, resized, cut into patches."""
