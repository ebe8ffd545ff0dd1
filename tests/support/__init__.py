"""What tests share: fakes, generators of hostile input, servers to load from."""
