"""The checks of ``kubectl serve doctor``: evidence is fetched once, and each check is a pure function of it."""
