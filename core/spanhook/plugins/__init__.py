"""Plugins: `discovery` finds what is installed, `registration` checks an object, `loading` does both as configured."""
