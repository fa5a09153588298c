"""Find images that show the same thing. There are two measures, for two questions.

`search` looks for copies across splits: recompressed, resized, cropped, a little lighter. It needs sketches of 24 x 24
pixels, passes over images without structure, and compares each image with its closest few.

`small_copies` decides which images of a store count as one, where errors of a test must be independent: frames of a
video, also plain ones, over any number of steps. Stores keep its thumbnails of 8 x 8 pixels for images that they do not
keep themselves, so its measure cannot become the other one.
"""
