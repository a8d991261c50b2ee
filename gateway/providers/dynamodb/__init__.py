"""DynamoDB tables as tools. Needs the extra `dynamodb`."""

from gateway.providers.dynamodb.database import MAX_ATTEMPTS, DynamoDb, DynamoDbSettings
from gateway.providers.dynamodb.operations import OPERATIONS

__all__ = ["MAX_ATTEMPTS", "OPERATIONS", "DynamoDb", "DynamoDbSettings"]
