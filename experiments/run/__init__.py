"""What a run is made of: the objects of a configuration, and what all modes work with."""
