"""Plugins: `discovery` finds what is installed, `creation` makes one with its options, `registration` checks an object,
`loading` does it all as configured.
"""
