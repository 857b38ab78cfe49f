"""Mode connectivity: barriers on straight lines between sets of weights, with bounds."""
