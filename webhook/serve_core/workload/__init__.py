"""The containers of a served pod: the loader and the model server, rendered and recognised."""
