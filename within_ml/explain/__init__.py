"""Why a prediction is what it is: exact contributions, their wording, ads like it that did well, and what would help.

Functions of arrays, frames and a caller's ``predict``: nothing here knows which model is explained.
"""
