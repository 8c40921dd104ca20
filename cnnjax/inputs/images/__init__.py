"""Images, grey or in colour.

- `options`: what an experiment may vary;
- `statistics`: mean, deviation and principal components of training images;
- `augmentation/`: random changes, and what evaluation sees;
- `images`: all of it as the object that training and evaluation call (`cnnjax/inputs/__init__.py`).
"""
