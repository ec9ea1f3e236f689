"""Tables of slides, cases, labels and splits; a verb over all slides of a cohort."""
