"""What a run is made of: objects from a configuration, and what training and the other modes stand on."""
