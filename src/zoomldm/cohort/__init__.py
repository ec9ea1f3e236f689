"""Tables of slides, cases, labels and splits; running a verb over all slides of a cohort."""
