"""Leaderboards: models x data sets x seeds under one protocol, with statistics, printed as pages."""
