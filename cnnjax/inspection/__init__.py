"""What a network is, before it is trained: its layers, their work, what each position sees, and what is wrong with it.

- `field_of_view`: which inputs an output depends on, exactly, on the traced program; `intervals`, `propagation`, `rules/`: how;
- `certificate`: that field of view, checked by derivatives; `effective`: how much each input counts;
- `layer_table`: a row a layer with shapes, parameters, multiply-accumulates, memory and field of view;
- `findings`: dropped inputs, dead parameters, the least size that fits;
- `drawing`, `rendering`: all that as a picture, or as text, JSON, CSV or Markdown.
"""
