"""Tool calls: the formats in which models write them, and how a chat template determines the format.

``formats`` lists the formats, and ``template`` finds the one of a chat template.
"""
