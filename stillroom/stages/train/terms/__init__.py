"""What a term is, the kinds of terms, and what several of them keep."""
