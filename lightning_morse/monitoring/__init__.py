"""What happens around one analysis of a running training, apart from Lightning's hooks."""
