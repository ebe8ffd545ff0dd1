"""What all conversions share: the account of each field, the objects under construction, names and arguments."""
