"""How good the prices are: published figures, the fit, predicted beside measured, deeper levels."""
