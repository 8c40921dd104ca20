"""Segmentation: a class for every pixel.

- `options`: what an experiment may vary;
- `loss` and `metrics`: cross-entropy, focal and Dice loss; sums over pixels and the scores that are made of them;
- `crops`: what a network is trained on; `border_weights`: which pixels of a crop count for more;
- `tiling` and `examples`: whole images as tiles, whose overlap follows from the network's field of view;
- `instances`: objects in an image, and how well predicted ones match the true ones;
- `overlay` and `figures`: masks laid over images;
- `predict`: masks, overlays and areas of images, in Python and on the command line;
- `task`: all of it as the object that training, evaluation and prediction call (`cnnjax/tasks/__init__.py`).
"""
