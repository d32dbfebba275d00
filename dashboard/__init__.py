"""The Streamlit side that is not a page."""
