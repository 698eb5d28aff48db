"""From files to sections and back; import the leaf modules.

naming     what names of variables say: components of vectors, lone scalars
cards      what is declared: typed fields, dataset cards, the entries of a bundle
resolve    what the variables of a file are, from all the evidence
axes       space axes: regular, Gauss, periodic; quadrature weights
dimensions what the dimensions of a dataset are: roles, frames, levels
bases      the base manifold of a file
readers    files to one xarray dataset
assemble   that dataset to a tensor: variables, axes, numbers
fields     ``open_fields``, ``Fields``
writers    ``to_xarray``, ``write_netcdf``
steps      time steps: lengths, gaps, repeated records, outliers, missing values
windows    history and horizon by plain index, chronological splits
normalise  one scale per irreducible block
augment    random elements of a finite group, applied to input and target alike
inspect    a readable account of a file
"""
