"""What a run says about itself, in words and pictures; the only room that draws.

On the way of the data: metrics, curves and predictions -> **analysis** -> `report.html`, picture grids, findings.
`words` writes numbers, `verdict` judges curves, `cautions` names what a reader must know before believing a figure,
`charts` draws, `pages` makes self-contained files, `report` puts them together; `grids` shows pictures of a data set.
"""
