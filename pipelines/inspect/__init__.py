"""What a person asks about data that was built: is it whole, what does it look like, where did the rows go, what may go."""
