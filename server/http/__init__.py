"""HTTP that every dialect shares: authentication, bodies, middleware, the page's files."""
