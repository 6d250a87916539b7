"""HTTP that is the same for every dialect: authentication, bodies, middleware, the page's files."""
