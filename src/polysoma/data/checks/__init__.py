"""What the doctor (:mod:`polysoma.data.doctor`) looks for in the episodes of a data set, one file for each subject."""
