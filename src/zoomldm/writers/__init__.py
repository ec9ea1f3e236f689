"""Files of pictures: pyramids that other tools open."""
