"""The program that profiles rows in a checkout.

The gate copies this folder and runs the copy in the checkouts of base and of head, also of a base that lacks it.
The modules therefore import each other by their place, and nothing of `lenet` but the interface of backends.
"""
