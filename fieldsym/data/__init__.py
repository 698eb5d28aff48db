"""From files to sections and back; import the leaf modules.

cards      what variables are: dataset cards, declared types, CF standard names, name patterns
readers    files to one xarray dataset with known axes
fields     ``open_fields``, ``Fields``, ``to_xarray``, ``write_netcdf``
windows    history and horizon by plain index, chronological splits
normalise  one scale per irreducible block
augment    random elements of a finite group, applied to input and target alike
inspect    a readable account of a file
"""
