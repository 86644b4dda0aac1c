"""A model of PyTorch: tensors without values, autograd, operations, and the memory curve of a step.

Terms:
    Row: A storage that a step allocates. Rows are numbered in the order of their allocation.
    Event: The allocation of a row (`n`) or its free (`~n`). A tape is the list of the events of a step.
    Position: A point between two events of a tape, given as the number of events before it.
    Kind: A name, shape, dtype and component. Rows of one kind are counted together.
    Period: The shortest sequence of layers that a model repeats. It is often a single layer.
    Window: The events of the repeated period in one pass: the forward or the backward pass.
    Copy: A layer, or a period, that is not interpreted because it repeats the events of a window.
    Moment: An event in one of the copies, with the bytes alive after it. The peak moment has the most bytes.
"""
