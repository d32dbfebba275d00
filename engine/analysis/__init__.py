"""Questions to a network, answered as pandas DataFrames in tidy long form."""
