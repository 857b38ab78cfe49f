"""Figures of an analysis and of a run, drawn with matplotlib but without pyplot.

No figure touches the user's matplotlib settings, and none depends on them. Numbers named in these
modules decide how a figure looks; none has a bearing on the soundness of what it states.
"""
