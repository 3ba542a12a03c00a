"""Life after the fit: new items, items that go, drift, and a refit that keeps the codes it can."""
