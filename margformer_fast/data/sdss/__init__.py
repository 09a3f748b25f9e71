"""The Sloan Digital Sky Survey: calibrated frames and photometric catalogues into stamps and features.

=============  ==========================================================================
module         what
=============  ==========================================================================
`files`        which files make a field, and their bytes
`objid`        the parts of the 64-bit object identifier
`frames`       one band of one field: image, position and world coordinates
`catalogue`    one field's ``photoObj``: magnitudes, sizes, types, flags
`ingest`       both together: a :class:`~margformer_fast.data.survey.Survey` and a report
`report`       what became of every object listed
`check`        does the light in the stamps agree with the catalogue?
=============  ==========================================================================
"""
