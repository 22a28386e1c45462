"""Operations of our own, each with a library reference that its test holds it against."""
