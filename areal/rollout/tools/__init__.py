"""Tool calls: the formats in which models write them, and what a chat template says of its model's.

``formats`` lists the formats, ``template`` finds out which of them a chat template is for.
"""
