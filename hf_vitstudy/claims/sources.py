"""How the papers are cited."""

RAGHU = "Raghu et al. 2021"
PARK = "Park & Kim 2022"
DOSOVITSKIY = "Dosovitskiy et al. 2020"
