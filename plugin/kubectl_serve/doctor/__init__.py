"""What ``kubectl serve doctor`` looks at: evidence is fetched once, and each check is a pure function of it."""
