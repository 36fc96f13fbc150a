"""The commands of `rbnn`, a module for each thing people come for. Each command imports what is
heavy by itself.
"""
