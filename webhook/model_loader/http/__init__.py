"""HTTP for the loader: connections, TLS, proxies, allowed addresses, redirects."""
