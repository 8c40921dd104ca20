"""From sources of examples to batches.

- `source`: what every source offers: named splits of examples that can be read at any index;
- `sources/`: the sources by name, and their options;
- `order`, `pipeline`, `workers`: which examples a batch has, and how they are read ahead;
- `pictures`, `masks`, `voc`: files of images, masks and boxes; `folder`, `pairs`: folders of them;
- `digits`, `digit_pairs`, `digit_scenes`: sets that come with cnnjax; `tfds_*`, `prepare`: those of tensorflow-datasets.
"""
