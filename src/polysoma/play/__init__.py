"""Bodies that live in a page of the browser, all driven by the same weights."""
