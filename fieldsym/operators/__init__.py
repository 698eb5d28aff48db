"""Operators between sections: spectral, pointwise, fno."""
