"""From a picture of an object to a 3D model: a mesh with colours, in a file that others open, and pictures of it.

    making.py       the stages in their order
    progress.py     runs, reports and measures a stage
    chunks.py       how many points of a field are asked for at a time
    density.py      densities on a grid
    surface.py      the isosurface, and what is wrong with bad ones
    cleaning.py     the largest component, decimated and merged
    colours.py      colours of vertices, asked of the field
    atlas.py        a mesh unwrapped onto a square
    baking.py       a texture, asked of the field
    shape.py        what all of it makes: the mesh as glTF wants it
    files.py        GLB, OBJ and STL
    previews.py     pictures of the mesh: four views and a turntable, by ray casting on the CPU

A generator's events are chunks, after which it can be stopped.

More than a dozen files, each one stage or what several stages share.
"""
