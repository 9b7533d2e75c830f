"""A stand-in for conda in the lab: conda's own commands for the few things a role may ask of it."""

# What `conda --version` of the installer's release prints.
VERSION = "26.1.0"
STANDIN = "a stand-in made by vllm-ansible for its lab, on py-rattler; not conda"
